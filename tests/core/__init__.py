"""Tests of the pure rules: plain functions, no fixtures, no async."""
