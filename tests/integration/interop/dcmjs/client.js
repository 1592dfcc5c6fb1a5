// One request in JSON on the command line, one JSON answer as the last line: the node called by dcmjs-dimse.
const path = require('path');
const { Client, Scp, Server, constants, log, requests, responses } = require('dcmjs-dimse');
const { PresentationContextResult, Status, TransferSyntax } = constants;
const { CEchoRequest, CFindRequest, CGetRequest, CMoveRequest, CStoreRequest } = requests;
const { CStoreResponse } = responses;

log.setLevel('error');

const UNCOMPRESSED = [TransferSyntax.ExplicitVRLittleEndian, TransferSyntax.ImplicitVRLittleEndian];
const FINDS = {
  STUDY: CFindRequest.createStudyFindRequest,
  SERIES: CFindRequest.createSeriesFindRequest,
  IMAGE: CFindRequest.createImageFindRequest,
};

// Sends one association with these requests; resolves to the statuses and data sets of all responses.
function converse(asked, port, onStore) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    const answers = { statuses: [], datasets: [], completed: 0, failures: 0 };
    asked.forEach((request) => {
      request.on('response', (response) => {
        answers.statuses.push(response.getStatus());
        if (response.hasDataset()) answers.datasets.push(response.getDataset().getElements());
        if (typeof response.getCompleted === 'function') {
          answers.completed = Math.max(answers.completed, response.getCompleted() || 0);
          answers.failures = Math.max(answers.failures, response.getFailures() || 0);
        }
      });
      client.addRequest(request);
    });
    if (onStore) client.on('cStoreRequest', onStore);
    client.on('networkError', reject);
    client.on('associationRejected', (result) => reject(new Error(`rejected: ${JSON.stringify(result)}`)));
    client.on('closed', () => resolve(answers));
    client.send('127.0.0.1', port, 'DCMJS', 'DICOMNODE');
  });
}

// Writes what arrives under its UID, which is only digits and dots here, and acknowledges it.
function keeper(folder) {
  return (request, callback) => {
    const name = `${request.getAffectedSopInstanceUid()}.dcm`;
    request.getDataset().toFile(path.join(folder, name));
    const response = CStoreResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  };
}

// A storage SCP that takes uncompressed objects into a folder.
function receiver(folder) {
  const keep = keeper(folder);
  return class extends Scp {
    associationRequested(association) {
      association.getPresentationContexts().forEach(({ id }) => {
        const context = association.getPresentationContext(id);
        const syntax = UNCOMPRESSED.find((uid) => context.getTransferSyntaxUids().includes(uid));
        if (syntax) context.setResult(PresentationContextResult.Accept, syntax);
        else context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
      });
      this.sendAssociationAccept();
    }

    cStoreRequest(request, callback) {
      keep(request, callback);
    }

    associationReleaseRequested() {
      this.sendAssociationReleaseResponse();
    }
  };
}

async function move({ port, listens, study, folder }) {
  const server = new Server(receiver(folder));
  server.listen(listens, {});
  try {
    return await converse([CMoveRequest.createStudyMoveRequest('DCMJS', study)], port);
  } finally {
    server.close();
  }
}

const COMMANDS = {
  echo: ({ port }) => converse([new CEchoRequest()], port),
  store: ({ port, files }) => converse(files.map((file) => new CStoreRequest(file)), port),
  find: ({ port, level, keys }) => converse([FINDS[level](keys)], port),
  get: ({ port, study, folder }) => converse([CGetRequest.createStudyGetRequest(study)], port, keeper(folder)),
  move,
};

const asked = JSON.parse(process.argv[2]);
COMMANDS[asked.command](asked)
  .then((answer) => {
    console.log(JSON.stringify(answer));
    process.exit(0);
  })
  .catch((error) => {
    console.error(String(error && error.stack ? error.stack : error));
    process.exit(1);
  });
