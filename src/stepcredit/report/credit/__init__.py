"""The credit page: where each response went wrong."""
