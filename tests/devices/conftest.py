"""An arm and its gripper that a host serves, and a client that moves them."""

from __future__ import annotations

import pytest


@pytest.fixture
def there():
    """One arm with its gripper where it stands, and what its yaml says."""
    from remote_robot import fakes

    return fakes(sides=("right",))


@pytest.fixture
def host(there):
    from remote_robot import hosted

    with hosted(*there) as host:
        yield host


@pytest.fixture
def network(host):
    from remote_robot import Network

    network = Network(host.port)
    yield network
    network.close()


@pytest.fixture
def robot(there, network):
    from remote_robot import remote_robot, remote_settings

    robot = remote_robot(remote_settings(there[1], network.port), there[0].cameras)
    yield robot
    robot.close()
