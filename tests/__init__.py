"""Tests of durable, laid out as the package is."""
