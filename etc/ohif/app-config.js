// OHIF 3.12 with a dicomnode: put this in the place of OHIF's own app-config.js (docs/viewers.md).
// The node must name the origin that OHIF is served from in web.cors_origins.

const node = 'http://127.0.0.1:8042'; // where browsers see the node's HTTP port

window.config = {
  name: 'dicomnode',
  routerBasename: null,
  extensions: [],
  modes: [],
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  defaultDataSourceName: 'dicomnode',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomnode',
      configuration: {
        friendlyName: 'dicomnode',
        name: 'dicomnode',
        qidoRoot: `${node}/dicom-web`,
        wadoRoot: `${node}/dicom-web`,
        wadoUriRoot: `${node}/dicom-web`,
        qidoSupportsIncludeField: true,
        supportsReject: false, // what is stored is deleted by `dicomnode delete` only
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        dicomUploadEnabled: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
