"""A file for each gripper driver, which says `DRIVER`; see `rdt2.devices.drivers`."""
