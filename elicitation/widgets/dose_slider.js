// Dose slider: one measured dose at a time. Texts come from models, so they are only ever set as textContent.

const WIDTH = 320;

function made(name, style, ...children) {
  const element = document.createElement(name);
  element.style.cssText = style;
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const data = model.get("data");
  const style = made("style", "");
  style.textContent = data.style;
  const slider = made("input", `width:${WIDTH}px;max-width:60vw;vertical-align:middle`);
  slider.type = "range";
  slider.min = "0";
  slider.max = String(data.doses.length - 1);
  slider.step = "1";
  slider.value = "0";
  const told = made("output", "font-weight:700;margin-left:.6em");
  const value = made("div", "position:absolute;top:0;bottom:0;left:0;background:#2e86d6");
  const spread = made("div", "position:absolute;top:7px;height:4px;background:currentColor");
  const bar = made(
    "div",
    `position:relative;width:${WIDTH}px;max-width:60vw;height:18px;border:1px solid rgba(128,128,128,.6)`,
    value,
    spread,
  );
  bar.setAttribute("aria-hidden", "true");
  const accuracy = made("span", "margin-left:.6em");
  const texts = made("tbody", "");
  const table = made("table", "margin-top:.6em", texts);
  table.className = "lab-doses";
  const line = made("div", "display:flex;align-items:center;margin-top:.4em", bar, accuracy);

  function draw() {
    const row = data.doses[Number(slider.value)];
    const [low, mean, high] = row.bar;
    told.textContent = row.dose;
    slider.setAttribute("aria-valuetext", `dose ${row.dose}, accuracy ${row.accuracy}`);
    accuracy.textContent = `accuracy ${row.accuracy}`;
    value.style.width = `${100 * mean}%`;
    spread.style.left = `${100 * low}%`;
    spread.style.width = `${100 * (high - low)}%`;
    texts.replaceChildren(
      ...row.texts.map((text, at) => {
        const prompt = made("code", "");
        const answer = made("code", "");
        prompt.textContent = data.prompts[at];
        answer.textContent = text;
        return made("tr", "", made("td", "", prompt), made("td", "", answer));
      }),
    );
  }

  slider.addEventListener("input", draw);
  el.append(style, made("label", "", "Dose ", slider, told), line, table);
  draw();
}

export default { render };
