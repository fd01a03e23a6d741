// Without a validator: otherwise a site of the library's is asked whether the document is valid.
window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "../openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    layout: "StandaloneLayout",
    tryItOutEnabled: true,
    persistAuthorization: false,
    validatorUrl: "none",
  });
};
