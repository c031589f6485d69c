(function () {
  "use strict";
  // Map legend: a press shows one class alone, a second press shows all again.
  document.querySelectorAll("[data-map]").forEach(function (box) {
    var buttons = Array.prototype.slice.call(box.querySelectorAll("button[data-group]"));
    var marks = Array.prototype.slice.call(box.querySelectorAll("g[data-group]"));
    buttons.forEach(function (button) {
      button.addEventListener("click", function () {
        var on = button.getAttribute("aria-pressed") !== "true";
        buttons.forEach(function (b) { b.setAttribute("aria-pressed", String(on && b === button)); });
        marks.forEach(function (m) {
          m.classList.toggle("faded", on && m.getAttribute("data-group") !== button.dataset.group);
        });
      });
    });
  });

  // Strips: all, right or wrong.
  document.querySelectorAll("[data-filter-for]").forEach(function (bar) {
    var list = document.getElementById(bar.dataset.filterFor);
    var buttons = Array.prototype.slice.call(bar.querySelectorAll("button"));
    buttons.forEach(function (button) {
      button.addEventListener("click", function () {
        buttons.forEach(function (b) { b.setAttribute("aria-pressed", String(b === button)); });
        Array.prototype.forEach.call(list.children, function (item) {
          item.hidden = button.dataset.show !== "all" && item.dataset.outcome !== button.dataset.show;
        });
      });
    });
  });

  // A printed page shows everything.
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (d) { d.open = true; });
  });
})();
