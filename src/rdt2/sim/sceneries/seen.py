"""What training sees: warm woods and pale surfaces of any hue, light from above, a table within 15 mm of its height."""

from rdt2.sim.sceneries import Scenery, Tint

_PALE = Tint(hue=((0.0, 1.0),), saturation=((0.0, 0.28),), value=((0.45, 0.90),))
_WOOD = Tint(hue=((0.06, 0.11),), saturation=((0.22, 0.42),), value=((0.55, 0.85),))

SCENERY = Scenery(
    stream=0,
    table_height=((-1.0, 1.0),),
    surfaces={"plain": _PALE, "wood": _WOOD, "speckle": _PALE, "cloth": _PALE},
    wall=Tint(hue=((0.0, 1.0),), saturation=((0.08, 0.30),), value=((0.62, 0.86),)),
    elevation=((50.0, 80.0),),
    level=((0.40, 0.62),),
    warmth=((-0.04, 0.04),),
    ambient=((0.30, 0.42),),
    cloth=((0.54, 0.64), (0.04, 0.10)),
)
