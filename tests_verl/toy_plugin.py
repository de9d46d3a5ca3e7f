"""Makes the toy world of the other tests known in every process of verl."""

from toy_world import register_toy

register_toy()
