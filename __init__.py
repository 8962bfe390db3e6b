"""ComfyUI reads this file when the repository is cloned into custom_nodes. Nothing else needs it."""

if __package__:  # pytest imports it as a loose file, which has no siblings
    from .comfy_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, WEB_DIRECTORY

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
