"""What people see of an engine: views, computed from what the store finds, and nothing that acts."""
