"""Generated scenes: what stands where, drawn with an exact mask."""

from camtrain.data.scenes.scenes import (
    CLASSES,
    DEFAULTS,
    HOMES,
    PLACES,
    Scene,
    Scenes,
    assign_places,
    draw_scene,
)

__all__ = ["CLASSES", "DEFAULTS", "HOMES", "PLACES", "Scene", "Scenes", "assign_places", "draw_scene"]
