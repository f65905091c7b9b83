"""Find the quantization plan that saves the most and passes a recipe's gate."""
