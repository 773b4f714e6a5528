"""What the admin API and the ingress stand on."""
