"""What the ingress of Restate's own server answers, beside the one here."""
