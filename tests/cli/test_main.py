"""What stands before any verb."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("of_the_user", "then"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_how_threads_wait_is_said_before_pytorch_is_loaded_unless_the_user_has_said_it(of_the_user, then):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | of_the_user
    asks = "import os, sys, spermseg.cli; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", then]
