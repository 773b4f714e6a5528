"""What happened to this order? Its trace, and the metrics, in a terminal."""
