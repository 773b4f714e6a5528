"""SQL for operators: Restate's introspection tables over this engine's file, read-only and bounded."""
