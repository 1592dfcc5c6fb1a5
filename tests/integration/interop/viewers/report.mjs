// An SR as DICOM JSON and the planes of its images on the command line; the annotations that OHIF makes of it, as the
// last line. The way of OHIF's hydration: natural names by dcmjs, `generateToolState` of cornerstone's adapters.
import { readFileSync } from 'node:fs';
import dcmjs from 'dcmjs';
import { adaptersSR } from '@cornerstonejs/adapters';
import { metaData } from '@cornerstonejs/core';

const { MeasurementReport } = adaptersSR.Cornerstone3D;
const { report, planes } = JSON.parse(process.argv[2]);
const [document] = JSON.parse(readFileSync(report));
const dataset = dcmjs.data.DicomMetaDictionary.naturalizeDataset(document);

// An image that is open in a viewer: its UID and frame to its image id, which has a plane.
const open = Object.fromEntries(Object.keys(planes).map((uid) => [`${uid}:1`, `open:${uid}`]));
metaData.addProvider((type, imageId) => {
  if (type !== 'imagePlaneModule') return undefined;
  return planes[imageId.replace('open:', '')];
});

// What OHIF asks before it offers to make measurements of an SR: whether a tool takes such a graphic.
function tools(group) {
  const [region] = group.ContentSequence.filter(({ ValueType }) => ValueType === 'SCOORD');
  const { CodingSchemeDesignator: scheme, CodeValue: value } = region.ConceptNameCodeSequence[0];
  const adapters = MeasurementReport.getAdaptersForTypes(
    `${scheme}:${value}`,
    region.GraphicType,
    region.GraphicData.length / 2
  );
  return adapters.map(({ toolType }) => toolType);
}

function annotation([tool, { annotation: made, sopInstanceUid, findingSites, TrackingUniqueIdentifier }]) {
  return {
    tool,
    image: sopInstanceUid,
    tracking: TrackingUniqueIdentifier,
    label: made.data.label,
    sites: findingSites.map((site) => site[0].CodeValue),
    points: made.data.handles.points,
  };
}

const groups = dataset.ContentSequence.find((item) => item.ConceptNameCodeSequence[0].CodeValue === '126010');
const state = MeasurementReport.generateToolState(dataset, open, metaData);
const annotations = Object.entries(state).flatMap(([tool, made]) => made.map((each) => annotation([tool, each])));
console.log(JSON.stringify({ tools: groups.ContentSequence.map(tools), annotations }));
