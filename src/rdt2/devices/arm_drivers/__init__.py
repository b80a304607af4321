"""A file for each arm driver, which says `DRIVER`; see `rdt2.devices.drivers`."""
