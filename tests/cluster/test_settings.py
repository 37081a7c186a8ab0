"""What Ray is told: whose log it may write."""

import logging

import ray.data

from spermseg.cluster.settings import configure_ray_data


def test_of_the_handlers_of_rays_loggers_only_those_of_ray_are_silenced(caplog):
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray.train")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        configure_ray_data(ray.data.DataContext.get_current())
        of_ray = [one for logger in loggers for one in logger.handlers if type(one).__name__ == "PlainRayHandler"]
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    assert [handler.level for handler in of_ray] == [logging.CRITICAL]
    logging.getLogger("spermseg").warning("heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]
