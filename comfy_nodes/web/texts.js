// Texts that our scripts show, in the language of the editor. English stands in the scripts and is the key.
import { app } from "../../scripts/app.js";

const SECTION = "erasePlugins"; // of main.json of every language
let known = {};

/** The text in the editor's language; "%s" is filled in order. */
export function say(text, ...values) {
  let place = 0;
  return (known[text] ?? text).replace(/%s/g, () => String(values[place++] ?? ""));
}

/** Calls a function now, and again when the translations are there. */
export function whenTranslated(draw) {
  draw();
  loaded.then(draw);
}

async function load() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  if (language === "en") return;
  const answer = await app.api.fetchApi("/i18n");
  if (answer.ok) known = (await answer.json())[language]?.[SECTION] ?? {};
}

/** Settled when the translations are there, or are known to be missing: texts stay English then. */
export const loaded = load().catch(() => {});
