// Draws the surfaces of a page and turns them under mouse, finger and arrow keys. All viewers share one WebGL context (browsers allow few);
// each copies its picture into a canvas of its own. Where WebGL or decompression is missing the still pictures stay.
"use strict";
(() => {
  const MARGIN = 1.15, FIELD_DEG = 30, STEPS = 65535;

  async function unpack(surface) {
    const packed = Uint8Array.from(atob(surface.data), letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const raw = await new Response(stream).arrayBuffer();
    const faces = new Int32Array(raw, 0, 3 * surface.triangles), steps = new Uint16Array(raw, 4 * faces.length);
    const index = new Uint32Array(faces.length), number = steps.length / 3, position = new Float32Array(steps.length);
    for (let at = 0, last = 0; at < faces.length; at++) index[at] = last += faces[at];
    for (let axis = 0; axis < 3; axis++)
      for (let at = 0, last = 0; at < number; at++) {
        last = (last + steps[axis * number + at]) & STEPS;
        position[3 * at + axis] = (2 * last / STEPS - 1) * surface.reach_A;
      }
    const geometry = new THREE.BufferGeometry();
    geometry.setIndex(new THREE.BufferAttribute(index, 1));
    geometry.setAttribute("position", new THREE.BufferAttribute(position, 3));
    geometry.computeVertexNormals();
    return geometry;
  }

  function meshOf(surface, geometry) {
    const clear = surface.opacity < 1;
    return new THREE.Mesh(geometry, new THREE.MeshStandardMaterial({
      color: surface.colour, roughness: 0.75, metalness: 0, side: THREE.DoubleSide, transparent: clear, opacity: surface.opacity,
      depthWrite: !clear,
    }));
  }

  class Viewer {
    constructor(element, renderer) {
      this.element = element;
      this.renderer = renderer;
      this.canvas = element.querySelector("canvas");
      this.told = JSON.parse(element.querySelector("script").textContent);
      this.scene = new THREE.Scene();
      this.group = new THREE.Group();
      this.camera = new THREE.PerspectiveCamera(FIELD_DEG, 1, 1, 1000);
      const reach = this.told.reach_A, distance = MARGIN * reach / Math.tan(FIELD_DEG * Math.PI / 360);
      this.camera.position.set(0, 0, distance);
      this.camera.near = distance / 50;
      this.camera.far = distance * 4;
      const lamp = new THREE.DirectionalLight(0xffffff, 2.2);
      lamp.position.set(-0.5 * distance, 0.6 * distance, 0);  // beside the camera, which it follows
      this.camera.add(lamp);
      this.scene.add(this.camera, this.group, new THREE.HemisphereLight(0xffffff, 0x777788, 1.1));
      this.meshes = this.told.surfaces.map(() => null);
    }

    async start() {
      const boxes = [...this.element.querySelectorAll("input")];
      await Promise.all(boxes.map((box, at) => box.checked ? this.show(at, true) : null));
      this.element.classList.add("live");
      this.controls = new THREE.OrbitControls(this.camera, this.canvas);
      this.canvas.style.touchAction = "pinch-zoom";
      this.controls.enablePan = false;
      this.controls.enableZoom = false;  // the page scrolls past a viewer until it is taken hold of
      this.canvas.addEventListener("pointerdown", () => { this.controls.enableZoom = true; });
      this.canvas.addEventListener("pointerleave", () => { this.controls.enableZoom = false; });
      this.controls.addEventListener("change", () => this.draw());
      this.canvas.addEventListener("keydown", event => this.turnByKey(event));
      boxes.forEach((box, at) => {
        box.disabled = false;
        box.addEventListener("change", () => this.show(at, box.checked).then(() => this.draw()));
      });
      new ResizeObserver(() => this.draw()).observe(this.canvas);
      this.draw();
    }

    async show(at, isOn) {
      if (isOn && !this.meshes[at]) {
        const surface = this.told.surfaces[at];
        this.meshes[at] = meshOf(surface, await unpack(surface));
        this.group.add(this.meshes[at]);
      }
      if (this.meshes[at]) this.meshes[at].visible = isOn;
    }

    turnByKey(event) {
      const [axis, angle] = { ArrowLeft: ["y", -1], ArrowRight: ["y", 1], ArrowUp: ["x", -1], ArrowDown: ["x", 1] }[event.key] || [];
      if (!axis) return;
      event.preventDefault();
      this.group.rotateOnWorldAxis(new THREE.Vector3(axis === "x" ? 1 : 0, axis === "y" ? 1 : 0, 0), angle * Math.PI / 18);
      this.draw();
    }

    draw() {
      const edge = Math.max(1, Math.round(this.canvas.clientWidth * Math.min(2, window.devicePixelRatio || 1)));
      if (this.canvas.width !== edge) this.canvas.width = this.canvas.height = edge;
      this.renderer.setSize(edge, edge, false);
      this.renderer.render(this.scene, this.camera);
      const page = this.canvas.getContext("2d");
      page.clearRect(0, 0, edge, edge);
      page.drawImage(this.renderer.domElement, 0, 0);
    }
  }

  async function begin() {
    const elements = [...document.querySelectorAll(".viewer")];
    if (!elements.length) return "none";
    if (typeof DecompressionStream === "undefined" || !document.createElement("canvas").getContext("webgl2")) return "still";
    const renderer = new THREE.WebGLRenderer({ alpha: true, antialias: true });
    renderer.setPixelRatio(1);
    for (const element of elements) await new Viewer(element, renderer).start();
    return "drawn";
  }

  begin().then(state => { document.body.dataset.surfaces = state; });
})();
