// Draws every figure of the page in the reader's colours, and again when those change.
(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    showSendToCloud: false, displaylogo: false, responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const wrap = (words) => words.replace(/(.{18,30}) (?=.{8})/g, "$1<br>");

  const theme = () => {
    const axis = {
      gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--soft"),
      tickcolor: colour("--soft"), automargin: true, title: { standoff: 10 },
    };
    return { layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
      font: { color: colour("--ink"), size: 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--shade"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      colorway: JSON.parse(document.body.dataset.colours), margin: { l: 56, r: 18, t: 46, b: 48 },
      title: { x: 0.01, xanchor: "left", font: { size: 15 } },
      legend: { orientation: "h", yref: "container", yanchor: "bottom", y: 0, x: 0 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") },
    } };
  };

  const draw = async () => {
    document.body.dataset.state = "drawing";
    for (const place of document.querySelectorAll(".plot")) {
      // A fresh copy: the library writes into what it is given.
      const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
      const layout = { ...figure.layout, template: theme(), autosize: true };
      const narrow = place.clientWidth < 560;
      if (narrow) {
        layout.margin = { ...layout.margin, l: 12, r: 8 };
        for (const axis of [layout.xaxis, layout.yaxis]) if (axis?.title?.text) axis.title.text = wrap(axis.title.text);
      }
      await Plotly.react(place, figure.data, layout, { ...config, displayModeBar: narrow ? false : "hover" });
    }
    document.body.dataset.state = "ready";
  };

  dark.addEventListener("change", draw);
  draw();
})();
