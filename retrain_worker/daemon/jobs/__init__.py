"""The jobs of the daemon, one module each. run_driver.py calls the first three; service.py schedules the others."""
