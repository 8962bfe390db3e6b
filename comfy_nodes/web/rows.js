// The concepts of the Erase node as rows: a switch, the concept, what it becomes, how strongly, and how much is left of it.
// The value stays the text that the node reads, one concept a line: "# pizza -> cake : 0.8" is a row that is off.
import { app } from "../../scripts/app.js";
import { fit, kindOf, make, replaceBox } from "./parts.js";
import { say, whenTranslated } from "./texts.js";

export const KIND = "EraseNegative";
const LEFT = "erase_left"; // a property: line -> share that is left
const ROW = 28, FOOT = 28, MOST = 8;
const ARROW = /^((?:"[^"]*"|“[^”]*”|„[^“]*“|«[^»]*»|[^"“„«])*?)\s*(?:[-–—]+>|=+>|[→⇒⟶⟹➔➜➡])\s*(.*)$/;
const STRENGTH = /^(.*\S)\s*:\s*(-?(?:\d+\.?\d*|\.\d+))$/;

/** The parts of a line. */
export function readLine(line) {
  const off = /^\s*#/.test(line);
  const [words, ...notes] = line.replace(/^[\s#]*/, "").split("#");
  let rest = words.trim(), strength = 1;
  const number = STRENGTH.exec(rest);
  if (number) [rest, strength] = [number[1], Number(number[2])];
  const sides = ARROW.exec(rest);
  return { off, concept: (sides ? sides[1] : rest).trim(), guide: sides ? sides[2] : "", strength, note: notes.join("#").trim() };
}

/** The line of its parts. */
export function writeLine({ off, concept, guide, strength, note }) {
  const words = `${concept}${guide ? ` -> ${guide}` : ""}${strength === 1 ? "" : ` : ${strength}`}`;
  return `${off && words ? "# " : ""}${words}${note ? `  # ${note}` : ""}`;
}

function addRows(node) {
  const panel = make("div", { class: "erase-panel erase-rows" });
  let lines = [""], asText = false, widget;

  const height = () => Math.min(Math.max(asText ? 4 : lines.length, 1), MOST) * ROW + FOOT;
  const changed = () => {
    widget?.callback?.(widget.value);
    app.graph?.setDirtyCanvas?.(true, false);
  };

  /** Changes a part of a row where it stands, so that the box that is typed in stays. */
  const edit = (index, parts) => {
    lines[index] = writeLine({ ...readLine(lines[index]), ...parts });
    changed();
  };

  /** What was typed or pasted into a box may be a whole line, or several. */
  const settle = (index, text) => {
    if (/\n/.test(text)) {
      const more = text.split(/\r?\n/).filter((line) => line.trim());
      lines.splice(index, 1, ...more);
    }
    changed();
    draw();
  };

  function row(line, index) {
    const { off, concept, guide, strength } = readLine(line);
    const left = node.properties[LEFT]?.[line];
    const field = (part, value, hint, label) =>
      make("input", {
        type: "text", value, placeholder: hint, "aria-label": label, spellcheck: "false",
        on: {
          input: (event) => edit(index, { [part]: event.target.value.trim() }),
          change: (event) => settle(index, event.target.value),
          paste: (event) => {
            const text = event.clipboardData?.getData("text") ?? "";
            if (!/\n/.test(text.trim())) return;
            event.preventDefault();
            settle(index, text);
          },
          keydown: (event) => {
            if (event.key === "Enter") add();
          },
        },
      });
    const gone = left === undefined ? "" : left < 0.05 ? " gone" : left < 0.3 ? " half" : " back";
    return make(
      "div", { class: `erase-row${off ? " off" : ""}` },
      make("button", {
        type: "button", class: "switch", role: "switch", "aria-checked": String(!off), "aria-label": say("erase this concept"),
        title: off ? say("off: click to erase it") : say("erased: click to switch it off"),
        on: { click: () => { edit(index, { off: !off }); draw(); } },
      }),
      field("concept", concept, say("what to erase"), say("concept")),
      make("span", { class: "arrow" }, "→"),
      field("guide", guide, say("automatic"), say("what it becomes")),
      make("input", {
        type: "number", class: "strength", value: strength, min: -2, max: 2, step: 0.05, "aria-label": say("strength"),
        title: say("1 erases, 0 leaves it, below 0 strengthens it"),
        on: {
          input: (event) => event.target.value !== "" && edit(index, { strength: Number(event.target.value) }),
          change: () => draw(),
        },
      }),
      make("span", {
        class: `left${gone}`, title: left === undefined ? say("run the graph to see how much is left") : say("how much is left"),
      }, left === undefined ? "" : `${(100 * left).toFixed(left < 0.1 ? 1 : 0)} %`),
      make("button", {
        type: "button", class: "remove", "aria-label": say("remove the row"), title: say("remove the row"),
        on: { click: () => { lines.splice(index, 1); if (!lines.length) lines = [""]; changed(); draw(); } },
      }, "×"),
    );
  }

  function add() {
    if (lines.at(-1).trim()) lines.push("");
    changed();
    draw();
    panel.querySelector(".erase-row:last-of-type input")?.focus();
  }

  function draw() {
    const foot = make(
      "div", { class: "foot" },
      ...(asText ? [] : [make("button", { type: "button", class: "add", on: { click: add } }, say("+ concept"))]),
      make("button", {
        type: "button", class: "end as-text", on: { click: () => { asText = !asText; draw(); } },
      }, asText ? say("as rows") : say("as text")),
    );
    if (asText) {
      const box = make("textarea", { spellcheck: "false", "aria-label": say("one concept a line") });
      box.value = lines.join("\n");
      box.addEventListener("input", () => { lines = box.value.split("\n"); changed(); });
      panel.replaceChildren(box, foot);
    } else panel.replaceChildren(...lines.map(row), foot);
    panel.style.minHeight = panel.style.maxHeight = `${height()}px`;
    if (widget) fit(node);
  }

  widget = replaceBox(node, "erase", panel, {
    height, get: () => lines.join("\n"),
    set: (text) => {
      if (widget && String(text) === lines.join("\n")) return;
      lines = String(text ?? "").split("\n");
      draw();
    },
  });
  if (!widget) return;
  const { onExecuted } = node;
  node.onExecuted = function (output, ...more) {
    onExecuted?.call(this, output, ...more);
    const found = output?.erase_left;
    if (!found) return;
    const shares = new Map(found.map(({ concept, left }) => [concept.toLowerCase(), left]));
    const named = (line) => readLine(line).concept.replace(/^["“„«]|["”“»]$/g, "").toLowerCase();
    const seen = lines.filter((line) => !readLine(line).off && shares.has(named(line)));
    node.properties[LEFT] = Object.fromEntries(seen.map((line) => [line, shares.get(named(line))]));
    draw();
  };
  whenTranslated(draw);
}

app.registerExtension({
  name: "ErasePlugins.Rows",
  nodeCreated(node) {
    if (kindOf(node) !== KIND) return;
    addRows(node);
    node.setSize?.([Math.max(node.size[0], 360), node.size[1]]);
  },
});
