"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 700px)");
  const inks = JSON.parse(document.getElementById("dark-inks").textContent);
  const config = { displayModeBar: false, responsive: true, typesetMath: false, doubleClick: false, showTips: false };
  const PRINTED_WIDTH = 660;

  const swapped = (ink, night) => (night && inks[ink]) || ink;

  const themed = (value, night, key = "") => {
    if (Array.isArray(value)) return value.map((item) => themed(item, night, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, night, name)]));
    }
    return typeof value === "string" && key.toLowerCase().endsWith("color") ? swapped(value, night) : value;
  };

  const draw = (printing) => {
    const night = dark.matches && !printing;
    const shape = narrow.matches && !printing ? "narrow" : "wide";
    for (const plot of document.querySelectorAll(".plot")) {
      const shapes = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
      const { data, layout } = themed(shapes[shape], night);
      if (printing) layout.width = PRINTED_WIDTH;
      Plotly.react(plot, data, layout, config);
    }
    for (const item of document.querySelectorAll("[data-ink]")) item.style.color = swapped(item.dataset.ink, night);
  };

  dark.addEventListener("change", () => draw(false));
  narrow.addEventListener("change", () => draw(false));
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw(false));
  draw(false);
})();
