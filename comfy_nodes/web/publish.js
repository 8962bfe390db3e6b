// The question before anything is published: a run prepares an offer, and the person at this page accepts it or not.
// Workflows come from strangers and the login does not, so no value in a graph can answer.
import { app } from "../../scripts/app.js";
import { allNodes } from "./graph.js";
import { kindOf, tell } from "./parts.js";
import { say } from "./texts.js";

const PUBLISHERS = new Set(["EraseHubPush"]);
const waiting = [];
let asking = false;

async function settle(key, send) {
  const answer = await app.api.fetchApi("/erase_plugins/publish", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key, send }),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

function element(tag, text, style = "") {
  const made = document.createElement(tag);
  made.textContent = text; // names come from files of strangers
  made.style.cssText = style;
  return made;
}

/** Shows an offer; true if the person wants it sent. Enter, Escape and everything but the button mean no. */
function agreed(offer) {
  const box = document.createElement("dialog");
  box.className = "erase-publish";
  box.style.cssText =
    "max-width:min(640px,90vw);max-height:80vh;overflow:auto;padding:20px;border-radius:8px;border:1px solid #888;" +
    "font:14px/1.5 sans-serif;background:var(--comfy-menu-bg,#222);color:var(--input-text,#ddd)";
  const place = [offer.new && say("new"), offer.private ? say("private") : say("public"), offer.create_pr && say("as a pull request")];
  const what = say("%s: %s files, %s bytes", offer.artifact, offer.files.length, Number(offer.bytes).toLocaleString("en"));
  const list = [
    ...offer.files.map((file) => `${file.state} ${file.name} (${Number(file.bytes).toLocaleString("en")} bytes)`),
    ...offer.removed.map((name) => `removed ${name}`),
  ];
  const no = element("button", say("Do not publish"), "padding:6px 14px;cursor:pointer");
  const yes = element("button", say("Publish"), "padding:6px 14px;cursor:pointer");
  const row = element("div", "", "display:flex;gap:10px;justify-content:flex-end;margin-top:14px");
  row.append(no, yes);
  box.append(
    element("h3", say("Publish on the Hugging Face Hub?"), "margin:0 0 8px;font-size:17px"),
    element("div", `${offer.repo} (${place.filter(Boolean).join(", ")})`, "font-weight:bold"),
    element("div", offer.account ? say("with the login of %s", offer.account) : say("with the login of this computer")),
    element("div", what),
    element("div", say("message: %s", String(offer.message).slice(0, 200)), "unicode-bidi:isolate;overflow-wrap:anywhere"),
    element("pre", list.join("\n"), "white-space:pre-wrap;overflow-wrap:anywhere;max-height:40vh;overflow:auto"),
    row,
  );
  document.body.append(box);
  return new Promise((resolve) => {
    const end = (answer) => {
      box.remove();
      resolve(answer);
    };
    no.addEventListener("click", () => end(false));
    yes.addEventListener("click", (event) => end(event.isTrusted));
    box.addEventListener("cancel", () => end(false));
    for (const kind of ["keydown", "keyup", "keypress"]) box.addEventListener(kind, (event) => event.stopPropagation());
    box.showModal();
    no.focus();
  });
}

/** Off again: the next run only looks. */
function switchOff() {
  for (const node of allNodes()) {
    const widget = PUBLISHERS.has(kindOf(node)) && node.widgets?.find((item) => item.name === "publish");
    if (widget) {
      widget.value = false;
      widget.callback?.(false);
    }
  }
}

async function onOffer({ detail }) {
  if (typeof detail?.key !== "string") return;
  waiting.push(detail);
  if (asking) return;
  asking = true;
  try {
    while (waiting.length) {
      const offer = waiting.shift();
      const send = await agreed(offer);
      // whoever says no is not asked about the rest of the same run
      const dropped = send ? [] : waiting.splice(0);
      await Promise.allSettled(dropped.map((item) => settle(item.key, false)));
      try {
        const { text } = await settle(offer.key, send);
        if (send) tell("success", offer.repo, text);
      } catch (error) {
        tell("error", offer.repo, error.message);
      }
    }
  } finally {
    asking = false;
    switchOff();
  }
}

app.registerExtension({
  name: "ErasePlugins.Publish",
  setup() {
    app.api.addEventListener("erase_plugins.publish", onOffer);
  },
});
