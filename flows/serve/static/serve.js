(function () {
  "use strict";
  var MAX_ROWS_TEXT = 30000; // of an address; servers refuse longer ones
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
    var dots = [];
    canvas.querySelectorAll("[data-dots]").forEach(function (group) {
      var rows = group.dataset.rows.split(","), places = group.querySelector("path").getAttribute("d").split("h0");
      rows.forEach(function (row, i) {
        var at = places[i].slice(1).split(" ");
        if (row) { dots.push({ row: row, x: Number(at[0]), y: Number(at[1]), group: group.dataset.dots }); }
      });
    });
    var nearest = function (at) {
      var best = null, least = 0.03 * 0.03;
      dots.forEach(function (dot) {
        var far = (dot.x - at[0]) * (dot.x - at[0]) + (dot.y - at[1]) * (dot.y - at[1]);
        if (far < least) { least = far; best = dot; }
      });
      return best;
    };
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
      var kept = rows;
      while (kept.join(",").length > MAX_ROWS_TEXT) { kept = kept.slice(0, Math.floor(kept.length * 0.9)); }
      place.textContent = rows.length + " videos chosen" + (kept.length < rows.length ? ", the first " + kept.length + " fit into an address: " : ": ");
      [["show them", map.dataset.videos], ["as CSV", map.dataset.csv]].forEach(function (pair, i) {
        var link = document.createElement("a");
        link.textContent = pair[0];
        link.href = pair[1] + "?rows=" + kept.join(",");
        if (i) { place.append(" · "); }
        place.append(link);
      });
    };
    canvas.addEventListener("pointerdown", function (event) { line = [place(event)]; moved = false; });
    canvas.addEventListener("pointermove", function (event) {
      if (!line) {
        var near = nearest(place(event)), only = near && map.querySelector('[data-only="' + near.group + '"] span');
        canvas.style.cursor = near ? "pointer" : "";
        map.querySelector("[data-near]").textContent = near ? "row " + near.row + ", " + only.textContent : "Point at a dot to see whose it is; a click opens it.";
        return;
      }
      line.push(place(event));
      if (line.length > 3 && !moved) { moved = true; canvas.setPointerCapture(event.pointerId); }
      lasso.setAttribute("points", line.map(function (p) { return p.join(","); }).join(" "));
    });
    var choose = function () {
      var kept = dots.filter(function (dot) { return inside(dot.x, dot.y); });
      var drawn = kept.map(function (dot) { return "M" + dot.x + " " + dot.y + "h0"; }).join("");
      map.querySelector("[data-chosen-dots]").setAttribute("d", drawn);
      tell(kept.map(function (dot) { return dot.row; }));
    };
    canvas.addEventListener("pointerup", function () {
      if (line && moved) { choose(); }
      line = null;
    });

    // The same by keyboard: a cross is moved, corners are set.
    var cross = map.querySelector("[data-cross]"), at = [0, 0], corners = [], shape = corners;
    var draw = function () {
      var x = at[0].toFixed(3), y = at[1].toFixed(3);
      cross.setAttribute("d", "M" + x + " " + y + "m-.05 0h.1m-.05-.05v.1");
      lasso.setAttribute("points", shape.map(function (p) { return p.join(","); }).join(" "));
    };
    var steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", function (event) {
      var place = map.querySelector("[data-chosen]"), step = steps[event.key], far = event.shiftKey ? 0.01 : 0.05;
      if (step) {
        at = [0, 1].map(function (i) { return Math.max(-1.05, Math.min(1.05, at[i] + far * step[i])); });
      } else if (event.key === " ") {
        corners.push(at.slice());
        shape = corners;
        place.textContent = corners.length + (corners.length === 1 ? " corner" : " corners") + " set.";
      } else if (event.key === "Enter") {
        if (corners.length < 3) { place.textContent = "Three corners are needed, " + corners.length + " set."; } else {
          line = corners;
          choose();
          line = null;
          shape = corners.concat([corners[0]]); // stays to be seen; the next corner begins another
          corners = [];
        }
      } else if (event.key === "Escape") {
        corners = shape = [];
        place.textContent = "Nothing chosen.";
      } else { return; }
      event.preventDefault();
      draw();
    });
    canvas.addEventListener("click", function (event) {
      var near = moved ? null : nearest(place(event));
      if (near) { window.location.href = map.dataset.video + near.row; }
    });
    canvas.addEventListener("dragstart", function (event) { event.preventDefault(); });
    map.querySelectorAll("[data-only]").forEach(function (button) {
      button.addEventListener("click", function () {
        var on = button.getAttribute("aria-pressed") !== "true";
        map.querySelectorAll("[data-only]").forEach(function (b) { b.setAttribute("aria-pressed", String(on && b === button)); });
        canvas.querySelectorAll("[data-dots]").forEach(function (group) {
          group.classList.toggle("faded", on && group.dataset.dots !== button.dataset.only);
        });
      });
    });
  }
})();
