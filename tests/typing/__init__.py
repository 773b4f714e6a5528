"""What a type checker must infer from programs that use the package, and what it must refuse."""
