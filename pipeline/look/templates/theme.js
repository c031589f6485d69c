(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");

  // Theme: auto follows the system; the choice is remembered where the browser lets a local file do so.
  var choices = Array.prototype.slice.call(document.querySelectorAll("[data-theme-choice]"));
  function setTheme(name) {
    if (name === "auto") { root.removeAttribute("data-theme"); } else { root.setAttribute("data-theme", name); }
    choices.forEach(function (b) { b.setAttribute("aria-pressed", String(b.dataset.themeChoice === name)); });
  }
  var stored = null;
  try { stored = window.localStorage.getItem("scale-theme"); } catch (e) { stored = null; }
  setTheme(stored === "light" || stored === "dark" ? stored : "auto");
  choices.forEach(function (b) {
    b.addEventListener("click", function () {
      setTheme(b.dataset.themeChoice);
      try { window.localStorage.setItem("scale-theme", b.dataset.themeChoice); } catch (e) { return; }
    });
  });
})();
