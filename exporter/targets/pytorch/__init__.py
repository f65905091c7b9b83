"""An int8 state_dict and its config, for torch."""
