"""A file for each camera driver, which says `DRIVER`; see `rdt2.devices.drivers`."""
