// What NiceGUI puts on the import map as "headcount"; pages import the modules beside it by name.
export * from "headcount/format.js";
