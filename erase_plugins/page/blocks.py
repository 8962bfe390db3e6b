"""The page itself, in Gradio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erase_plugins.errors import EraseError
from erase_plugins.page.studio import WORDS, Studio, on_page, rates, sentence

#: pictures of this visit that the gallery shows, behind those of the page
_SHOWN = 12
#: what was drawn stays on the disk so long, looked after so often (seconds), and no longer than the page runs
_STAYS, _LOOKED = 6 * 3600, 3600
#: closes the messages of what was asked before, by the buttons that Gradio gives them
_CLOSE = """() => {
    document.querySelectorAll("[data-testid=toast-close], .toast-close").forEach((sign) => sign.click());
    return [];
}"""


def pressed(event: Callable[..., Any], work: Callable[..., Any], *given: Any, **more: Any) -> None:
    """Lets an event start work. Errors stay until they are closed: those of the last one go when another begins."""
    event(None, js=_CLOSE, api_name=False)
    event(work, *given, **more)


def page(studio: Studio) -> Any:
    """The page of a studio as ``gradio.Blocks``, ready for ``launch``."""
    import gradio as gr

    settings = studio.settings

    def told(work: Callable[..., Any]) -> Callable[..., Any]:
        """A button's work, whose errors the page shows in our words."""

        def run(*words: Any) -> Any:
            try:
                return work(*words)
            except EraseError as error:
                raise gr.Error(on_page(error), duration=None, print_exception=False) from None

        return run

    def draw(concept: str, becomes: str, prompt: str, seed: float, strength: float, model: str, before: Any) -> Any:
        pair = studio.draw(concept, becomes, prompt, seed, strength, model, gr.Warning)
        drawn = f"{prompt}, seed {int(seed or 0)}"
        captions = (f"before: {drawn}", f"without {concept} at {strength:g}: {drawn}")
        kept = [*(before or []), *zip(pair, captions, strict=True)][-_SHOWN:]
        return pair, [*studio.examples(), *kept], kept, studio.link(concept, becomes, prompt, seed, strength)

    def arrived(request: Any) -> Any:
        query = dict(request.query_params)
        found = zip(WORDS, studio.linked(query), strict=True)
        return [value if name in query else gr.skip() for name, value in found]  # what is being typed stays

    arrived.__annotations__["request"] = gr.Request  # by which Gradio knows what to give; it is no name of this module

    with gr.Blocks(title=settings.title, analytics_enabled=False, delete_cache=(_LOOKED, _STAYS)) as blocks:
        gr.Markdown(f"# {settings.heading}\n\n{settings.about}")
        with gr.Row():
            model = gr.Dropdown(
                list(dict.fromkeys([settings.model, "pocket", "pocket-natural"])), value=settings.model,
                allow_custom_value=True, label="Model", info="A folder, a file, or a name on the Hub",
                visible=settings.local,
            )  # fmt: skip
            concept = gr.Textbox(settings.concept, label="Forget", info="A style, a thing, a name")
            becomes = gr.Textbox("", label="Becomes", info="What takes its place; may stay empty")
        with gr.Row():
            prompt = gr.Textbox(settings.prompt, label="Prompt", scale=3)
            seed = gr.Number(0, label="Seed", precision=0)
            strength = gr.Slider(
                settings.low, settings.high, value=settings.best, step=0.05, label="Strength (0 is the base)", scale=2
            )
        button = gr.Button("Draw before and after", variant="primary")
        kept = gr.State([])
        with gr.Row():
            with gr.Column(min_width=320):
                pair = gr.ImageSlider(label="Before | after: pull the line", type="pil", format="png", max_height=400)
            with gr.Column(min_width=320):
                gallery = gr.Gallery(
                    studio.examples(), label="Before and after, same seeds", columns=2, object_fit="contain",
                    interactive=False, format="png", buttons=["share", "download", "fullscreen"],
                )  # fmt: skip
        link = gr.Textbox(
            "", label="Share: put this behind the page's address", buttons=["copy"], interactive=False, max_lines=1
        )
        words, about = [concept, becomes, prompt, seed, strength], [concept, becomes, model]
        for start, name in ((button.click, "draw"), (prompt.submit, None), (concept.submit, None)):
            pressed(start, told(draw), [*words, model, kept], [pair, gallery, kept, link], api_name=name or False)
        blocks.load(arrived, None, words, api_name=False)
        if settings.local:
            _own(gr, studio, told, about)
    return blocks


def _own(gr: Any, studio: Studio, told: Any, about: list[Any]) -> None:
    """What only the user of this machine gets: measure, attack, save, publish."""
    report, fought = gr.State(None), gr.State(None)  # of which words, and what was found

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        """As ``told``, for work that takes long: behind its words it gets a function that moves the page's bar."""
        bar = gr.Progress()

        def run(shown: Any = bar, *words: Any) -> Any:
            return told(work)(*words, lambda stage, done, total: shown((done, total), desc=stage))

        return run

    def measure(*words: Any) -> Any:
        found = studio.measure(*words)
        return rates(found), (words[:-1], found)

    def attack(*words: Any) -> Any:
        found = studio.attack(*words)
        return sentence(found), (words[:-1], found)

    def save(place: str, *words: str) -> str:
        return "\n".join(f"- {item.name}" for item in studio.save(place, *words).manifest.files)

    def publish(
        repo: str, private: bool, licence: str, found: Any, against: Any, dry_run: bool, *words: str
    ) -> str:  # fmt: skip
        options: dict[str, Any] = {"private": private, "license": licence.strip() or None, "dry_run": dry_run}
        concept, becomes, model = words
        measured, attacked = (item[1] if item and item[0] == words else None for item in (found, against))
        done = studio.publish(repo, concept, becomes, model, measured, attacked, **options)
        files = "\n".join(f"- {item.name}" for item in done.bundle.files)
        what = "Would publish" if done.dry_run else f"Published at commit {(done.commit or '')[:12]}:"
        missing = "" if measured else "\n\nNo numbers go with it: measure these words first (tab Measure)."
        return f"{what} {done.bundle.repo}\n\n{files}{missing}"

    with gr.Tab("Measure"):
        gr.Markdown("How often the concept is still seen, and the rest (the quick suite; a minute on pocket).")
        start = gr.Button("Measure")
        table = gr.Dataframe(headers=["measured", "before", "after"], interactive=False)
        pressed(start.click, watched(measure), about, [table, report], api_name="measure")
    with gr.Tab("Attack"):
        gr.Markdown("Tries to bring it back, with the smallest budget. A file can always be taken off again.")
        start = gr.Button("Attack")
        said = gr.Markdown()
        pressed(start.click, watched(attack), about, [said, fought], api_name="attack")
    with gr.Tab("Save"):
        folder = gr.Textbox(label="Folder", info="A new one; LoRA files for diffusers, peft and ComfyUI come in it")
        start = gr.Button("Save")
        saved = gr.Markdown()
        pressed(start.click, told(save), [folder, *about], saved, api_name="save")
    with gr.Tab("Publish"):
        gr.Markdown("Log in first with `hf auth login`. What was measured and attacked above goes on the page.")
        with gr.Row():
            repo = gr.Textbox(label="Repository", placeholder="me/no-pizza")
            licence = gr.Textbox(label="Licence", info="That of the base model if empty")
            private = gr.Checkbox(True, label="Private")
        with gr.Row():
            look, start = gr.Button("Show what would be sent"), gr.Button("Publish", variant="primary")
        answer = gr.Markdown()
        for button, dry in ((look, True), (start, False)):
            given = [repo, private, licence, report, fought, gr.State(dry), *about]
            pressed(button.click, told(publish), given, answer, api_name=False)
