"""The product's packages from the top down: one imports only what stands below it."""

PACKAGE_ORDER = (
    *("cli", "tune", "validate", "build", "bench", "recognition", "doctor", "targets"),
    *("quantization", "checkpoint", "hub", "families", "artifact", "recipe", "engine", "runtime"),
    *("formats", "system", "errors"),
)
