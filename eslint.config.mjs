// npx eslint@9 comfy_nodes/web
const browser = ["window", "document", "DataTransfer", "DragEvent", "URLSearchParams", "setTimeout", "clearTimeout", "setInterval", "clearInterval"];

export default [
  {
    files: ["comfy_nodes/web/**/*.js"],
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "module",
      globals: Object.fromEntries(browser.map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-undef": "error",
      "no-unused-vars": "error",
      "no-var": "error",
      "prefer-const": "error",
      eqeqeq: "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-extend-native": "error",
      "no-console": "error",
      "no-shadow": "error",
      "no-restricted-syntax": [
        "error",
        { selector: "MemberExpression[property.name='prototype']", message: "prototypes of the editor are not patched" },
        { selector: "AssignmentExpression > MemberExpression[property.name=/^onDraw/]", message: "nothing is drawn on the canvas" },
      ],
    },
  },
];
