"""The page on which a concept is typed, erased and looked at: on this machine (`erase-plugins ui`) and as a Space.

One builder (`blocks.page`) and what its buttons do (`studio.Studio`); the two starters differ in their `Settings` only.
Gradio is imported when the page is built; everything else works without it.
"""

from erase_plugins.page.studio import Settings, Studio

__all__ = ["Settings", "Studio"]
