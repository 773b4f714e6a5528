"""What Restate's own server answers, beside what an engine here answers."""
