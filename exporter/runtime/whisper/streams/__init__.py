"""Engines that decode by themselves: what they are asked, and the queue that keeps them busy."""
