"""Teachers and describers that need no server: templates over exact times, and small models from packages."""
