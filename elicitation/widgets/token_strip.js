// Token strip: two choices, a row of tokens, and the number of the token under the pointer or the slider.
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
  style.textContent = data.style + ".lab-strip .told{outline:2px solid currentColor}";
  const feature = chooser("Feature", data.features, draw);
  const text = chooser("Text", data.texts.map((shown) => shown.name), draw);
  const choices = document.createElement("div");
  const tokens = document.createElement("p");
  const place = document.createElement("input");
  const walk = document.createElement("label");
  const said = document.createElement("output");
  choices.append(feature.field, text.field);
  tokens.className = "strip lab-strip";
  place.type = "range";
  place.min = "0";
  place.style.verticalAlign = "middle";
  walk.append("Token ", place);
  said.style.marginLeft = "0.8em";

  function tell(at) {
    for (const span of tokens.children) span.classList.toggle("told", span === tokens.children[at]);
    place.value = String(at);
    said.textContent = tokens.children[at].title;
    place.setAttribute("aria-valuetext", said.textContent);
  }

  function token(word, value, scale, at) {
    const span = document.createElement("span");
    span.className = value === null ? "tok act unread" : "tok act";
    span.textContent = word;
    span.title = `“${word}” – ` + (value === null ? "activation not stored" : `activation ${value.toPrecision(3)}`);
    if (value > 0) span.style.setProperty("--a", (0.15 + 0.85 * Math.min(1, value / scale)).toFixed(2));
    span.addEventListener("mouseenter", () => tell(at));
    return span;
  }

  function draw() {
    const shown = data.texts[text.chosen()];
    const values = shown.activations[feature.chosen()];
    const scale = data.scales[feature.chosen()];
    tokens.replaceChildren(...shown.tokens.map((word, at) => token(word, values[at], scale, at)));
    place.max = String(shown.tokens.length - 1);
    said.textContent = `Full strength is ${scale.toPrecision(3)}. Point at a token, or move the slider.`;
  }

  place.addEventListener("input", () => tell(Number(place.value)));
  el.append(style, choices, tokens, walk, said);
  draw();
}

export default { render };
