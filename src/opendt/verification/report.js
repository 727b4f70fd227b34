// Readings under the pointer, and a click on a day of the whole run opens that day. The page is complete without.
"use strict";
(() => {
  const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const DAY_MS = 86400000;
  const two = (n) => String(n).padStart(2, "0");

  function moment(at, time) {
    const local = new Date(at.start + time);
    const clock = two(local.getUTCHours()) + ":" + two(local.getUTCMinutes());
    if (at.words === "count") return "Day " + (Math.floor(time / DAY_MS) + 1) + " " + clock;
    return WEEKDAYS[local.getUTCDay()] + " " + local.getUTCDate() + " " + MONTHS[local.getUTCMonth()] + " " + clock;
  }

  function shown(whole, data) {
    if (whole === null || whole === undefined) return "–";
    const value = whole / 10 ** data.digits;
    const text = Math.abs(value).toFixed(data.digits).replace(/\B(?=(\d{3})+(?!\d)(?=\.|$))/, "\u202f");
    return (value < 0 ? "−" : "") + text;
  }

  function nearest(data, share) {
    const value = data.axis[0] + share * (data.axis[1] - data.axis[0]);
    if (!data.at.x) {
      const count = data.series[0].v.length;
      return Math.min(count - 1, Math.max(0, Math.round((value - data.at.from) / data.at.step)));
    }
    return data.at.x.reduce((best, x, i) => (Math.abs(x - value) < Math.abs(data.at.x[best] - value) ? i : best), 0);
  }

  function row(name, text) {
    const line = document.createElement("div");
    const label = document.createElement("span");
    label.textContent = name;
    line.append(label, text);
    return line;
  }

  function fill(tip, data, index, place) {
    const head = document.createElement("b");
    head.textContent = data.at.x ? data.at.labels[index] : moment(data.at, place);
    const kind = document.querySelector("input[name=kind]:checked");
    const rows = data.series
      .filter((one) => !one.kind || (kind && one.kind === kind.value))
      .map((one) => {
        const value = shown(one.v[index], data) + (one.u ? " – " + shown(one.u[index], data) : "");
        return row(one.name, value + (data.unit ? " " + data.unit : ""));
      });
    tip.replaceChildren(head, ...rows);
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const source = figure.querySelector("script.data");
    if (!source) continue;
    const plot = figure.querySelector(".plot");
    let data, cursor, tip;

    const hide = () => {
      if (cursor) cursor.hidden = tip.hidden = true;
    };
    const show = (event) => {
      if (!data) {
        data = JSON.parse(source.textContent);
        cursor = document.createElement("div");
        tip = document.createElement("div");
        cursor.className = "cursor";
        tip.className = "tip";
        plot.append(cursor, tip);
      }
      const box = plot.getBoundingClientRect();
      const index = nearest(data, (event.clientX - box.left) / box.width);
      const place = data.at.x ? data.at.x[index] : data.at.from + index * data.at.step;
      const left = ((place - data.axis[0]) / (data.axis[1] - data.axis[0])) * box.width;
      fill(tip, data, index, place);
      cursor.hidden = tip.hidden = false;
      cursor.style.left = left + "px";
      const wanted = left < box.width / 2 ? left + 12 : left - tip.offsetWidth - 12;
      tip.style.left = Math.max(0, Math.min(box.width - tip.offsetWidth, wanted)) + "px";
    };
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", hide);
  }

  const whole = document.querySelector(".p-all .plot");
  const days = document.querySelectorAll("input[name=span]").length - 1;
  const axis = whole && JSON.parse(whole.closest("figure").querySelector("script.data").textContent).axis;
  if (whole) {
    whole.style.cursor = "zoom-in";
    whole.title = "Click to open this day";
    whole.addEventListener("click", (event) => {
      const box = whole.getBoundingClientRect();
      const time = axis[0] + ((event.clientX - box.left) / box.width) * (axis[1] - axis[0]);
      const day = Math.min(days - 1, Math.max(0, Math.floor(time / DAY_MS)));
      document.getElementById("span-" + day).checked = true;
    });
  }
})();
