"""Engines that serve HTTP by themselves."""
