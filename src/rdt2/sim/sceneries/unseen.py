"""What training never has, in any range: other patterns and colours, lower, dimmer or brighter, warmer or colder light,
darker walls, a table 15 to 30 mm higher or lower."""

from rdt2.sim.sceneries import Scenery, Tint

# A stronger colour than any surface of training but wood, whose hues lie elsewhere.
_STRONG = Tint(
    hue=((0.25, 0.45), (0.80, 0.95)), saturation=((0.32, 0.42),), value=((0.45, 0.85),)
)  # fmt: skip

SCENERY = Scenery(
    stream=1,
    table_height=((-2.0, -1.0), (1.0, 2.0)),
    surfaces={"marble": _STRONG, "stripes": _STRONG, "dots": _STRONG},
    wall=Tint(hue=((0.0, 1.0),), saturation=((0.08, 0.30),), value=((0.40, 0.58),)),
    elevation=((30.0, 46.0),),
    level=((0.30, 0.38), (0.65, 0.75)),
    warmth=((-0.12, -0.05), (0.05, 0.12)),
    ambient=((0.22, 0.29), (0.43, 0.50)),
    cloth=((0.25, 0.45), (0.80, 0.95)),
)
