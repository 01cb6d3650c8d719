"""reasoning-gym's generated problems and verifiers as tasks of ours."""
