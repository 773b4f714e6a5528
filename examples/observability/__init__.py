"""What happened to this order? Its trace, in a terminal."""
