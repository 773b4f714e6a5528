"""What people see: invocations and services."""
