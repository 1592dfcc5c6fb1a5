"""The HTTP port: DICOMweb (PS3.18), similar regions, health and metrics, on the services that the DICOM port uses."""
