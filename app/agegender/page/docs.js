// The interactive reference: Swagger UI over the OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // or it would show the document to a public service
});
