// Token strip: two choices, a row of tokens, and the number of the token under the pointer or the cursor keys.
// Texts come from models, so they are only ever set as textContent.

function chooser(label, names, onChange) {
  const field = document.createElement("label");
  const select = document.createElement("select");
  field.append(`${label} `, select);
  names.forEach((name, index) => {
    const option = document.createElement("option");
    option.textContent = name;
    option.value = String(index);
    select.append(option);
  });
  select.style.cssText =
    "font:inherit;max-width:100%;color:var(--jp-ui-font-color1,inherit);background:var(--jp-layout-color1,Canvas)";
  field.style.cssText = "margin-right:1.2em;white-space:nowrap";
  select.addEventListener("change", onChange);
  return { field, chosen: () => Number(select.value) };
}

function render({ model, el }) {
  const data = model.get("data");
  const style = document.createElement("style");
  style.textContent = data.style + ".lab-strip .tok:focus{outline:2px solid currentColor}";
  const feature = chooser("Feature", data.features, draw);
  const text = chooser("Text", data.texts.map((shown) => shown.name), draw);
  const choices = document.createElement("div");
  const tokens = document.createElement("p");
  const said = document.createElement("output");
  choices.append(feature.field, text.field);
  tokens.className = "strip lab-strip";
  tokens.setAttribute("role", "listbox");
  tokens.setAttribute("aria-label", "Tokens; the arrow keys go from one to the next");
  said.style.cssText = "display:block;min-height:1.5em";

  function tell(span) {
    said.textContent = span.title;
  }

  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && document.activeElement[step > 0 ? "nextElementSibling" : "previousElementSibling"];
    if (!next) return;
    event.preventDefault();
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function token(word, value, scale, first) {
    const span = document.createElement("span");
    span.className = value === null ? "tok act unread" : "tok act";
    span.textContent = word;
    span.title = `“${word}” – ` + (value === null ? "activation not stored" : `activation ${value.toPrecision(3)}`);
    if (value > 0) span.style.setProperty("--a", (0.15 + 0.85 * Math.min(1, value / scale)).toFixed(2));
    span.setAttribute("role", "option");
    span.tabIndex = first ? 0 : -1;
    span.addEventListener("mouseenter", () => tell(span));
    span.addEventListener("focus", () => tell(span));
    return span;
  }

  function draw() {
    const shown = data.texts[text.chosen()];
    const values = shown.activations[feature.chosen()];
    const scale = data.scales[feature.chosen()];
    tokens.replaceChildren(...shown.tokens.map((word, at) => token(word, values[at], scale, at === 0)));
    said.textContent = `Full strength: ${scale.toPrecision(3)}. Point at a token, or use the arrow keys.`;
  }

  tokens.addEventListener("keydown", move);
  el.append(style, choices, tokens, said);
  draw();
}

export default { render };
