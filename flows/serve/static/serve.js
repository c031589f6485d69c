(function () {
  "use strict";
  // Where the video is gone the place stays, without a broken picture.
  document.addEventListener("error", function (event) {
    if (event.target.tagName === "IMG") { event.target.classList.add("empty"); }
  }, true);

  // Crops: pointing at one shows its box on the frame in its middle.
  var view = document.querySelector("[data-box-view]");
  function show(crop) {
    if (!view) { return; }
    var image = view.querySelector("img"), box = view.querySelector("[data-box]"), d = crop.dataset;
    view.hidden = false;
    image.src = image.dataset.frame + "?w=960&at=" + Number(d.middle).toFixed(3);
    box.setAttribute("x", d.left);
    box.setAttribute("y", d.top);
    box.setAttribute("width", Math.max(0, d.right - d.left));
    box.setAttribute("height", Math.max(0, d.bottom - d.top));
    view.querySelector("[data-box-text]").textContent = d.text;
  }
  document.querySelectorAll("[data-crop]").forEach(function (crop) {
    ["mouseenter", "focus", "click"].forEach(function (name) { crop.addEventListener(name, function () { show(crop); }); });
  });

  // A command is copied.
  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-copy]");
    if (!button) { return; }
    navigator.clipboard.writeText(button.dataset.copy).then(function () { button.textContent = "copied"; });
  });

  // A file that is dropped or chosen is sent as it is.
  var drop = document.querySelector("[data-drop]");
  if (drop) {
    var status = drop.querySelector("[data-drop-status]");
    var send = function (file) {
      if (!file) { return; }
      status.textContent = "sending and decoding " + file.name + " …";
      var address = drop.dataset.address + "?index=" + encodeURIComponent(drop.dataset.index) + "&name=" + encodeURIComponent(file.name);
      fetch(address, { method: "POST", body: file, headers: { "HX-Request": "true" } }).then(function (answer) {
        return answer.text();
      }).then(function (text) {
        var parsed = new DOMParser().parseFromString(text, "text/html");
        var fresh = parsed.getElementById("hits") || parsed.querySelector("main");
        document.getElementById("hits").replaceChildren.apply(document.getElementById("hits"), Array.from(fresh.childNodes));
        status.textContent = "";
      }).catch(function () { status.textContent = "the server did not answer"; });
    };
    drop.querySelector("input").addEventListener("change", function (event) { send(event.target.files[0]); });
    drop.addEventListener("dragover", function (event) { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", function () { drop.classList.remove("over"); });
    drop.addEventListener("drop", function (event) {
      event.preventDefault();
      drop.classList.remove("over");
      send(event.dataTransfer.files[0]);
    });
  }

  // The map: a line drawn around points chooses them.
  var map = document.querySelector("[data-flat-map]");
  if (map) {
    var canvas = map.querySelector("[data-canvas]"), lasso = map.querySelector("[data-lasso]"), line = null, moved = false;
    var circles = Array.prototype.slice.call(canvas.querySelectorAll("circle"));
    var place = function (event) {
      var at = new DOMPoint(event.clientX, event.clientY).matrixTransform(canvas.getScreenCTM().inverse());
      return [at.x, at.y];
    };
    var inside = function (x, y) {
      var hit = false;
      for (var i = 0, j = line.length - 1; i < line.length; j = i++) {
        if ((line[i][1] > y) !== (line[j][1] > y) && x < (line[j][0] - line[i][0]) * (y - line[i][1]) / (line[j][1] - line[i][1]) + line[i][0]) { hit = !hit; }
      }
      return hit;
    };
    var tell = function (rows) {
      var place = map.querySelector("[data-chosen]");
      if (!rows.length) { place.textContent = "Nothing chosen."; return; }
      place.textContent = rows.length + " videos chosen: ";
      [["show them", map.dataset.videos], ["as CSV", map.dataset.csv]].forEach(function (pair, i) {
        var link = document.createElement("a");
        link.textContent = pair[0];
        link.href = pair[1] + "?rows=" + rows.slice(0, 2500).join(",");
        if (i) { place.append(" · "); }
        place.append(link);
      });
    };
    canvas.addEventListener("pointerdown", function (event) { line = [place(event)]; moved = false; });
    canvas.addEventListener("pointermove", function (event) {
      if (!line) { return; }
      line.push(place(event));
      if (line.length > 3 && !moved) { moved = true; canvas.setPointerCapture(event.pointerId); }
      lasso.setAttribute("points", line.map(function (p) { return p.join(","); }).join(" "));
    });
    canvas.addEventListener("pointerup", function () {
      if (line && moved) {
        var rows = [];
        circles.forEach(function (c) {
          var chosen = inside(Number(c.getAttribute("cx")), Number(c.getAttribute("cy")));
          c.classList.toggle("chosen", chosen);
          if (chosen) { rows.push(c.dataset.row); }
        });
        tell(rows);
      }
      line = null;
    });
    canvas.addEventListener("click", function (event) { if (moved) { event.preventDefault(); } }, true);
    canvas.addEventListener("dragstart", function (event) { event.preventDefault(); });
    map.querySelectorAll("[data-only]").forEach(function (button) {
      button.addEventListener("click", function () {
        var on = button.getAttribute("aria-pressed") !== "true";
        map.querySelectorAll("[data-only]").forEach(function (b) { b.setAttribute("aria-pressed", String(on && b === button)); });
        circles.forEach(function (c) { c.classList.toggle("faded", on && c.dataset.group !== button.dataset.only); });
      });
    });
  }
})();
