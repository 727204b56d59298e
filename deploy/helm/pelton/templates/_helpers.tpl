{{- define "pelton.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Of everything. */}}
{{- define "pelton.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "pelton.selector" . }}
{{- end }}

{{/* Of all pods; with app.kubernetes.io/component of some. These never change. */}}
{{- define "pelton.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pelton.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{/* The Secret and key of the API's token, and of the broker's. */}}
{{- define "pelton.apiSecret" -}}
name: {{ default (include "pelton.fullname" .) .Values.auth.existingSecret }}
key: {{ empty .Values.auth.existingSecret | ternary "token" .Values.auth.key }}
{{- end }}
{{- define "pelton.natsSecret" -}}
name: {{ default (include "pelton.fullname" .) .Values.nats.existingSecret }}
key: {{ empty .Values.nats.existingSecret | ternary "nats-token" .Values.nats.key }}
{{- end }}

{{/* What every process of the installation is told. */}}
{{- define "pelton.env" -}}
- name: PELTON_LOG_FORMAT
  value: json
{{- if .Values.nats.url }}
- name: PELTON_NATS
  value: {{ .Values.nats.url | quote }}
{{- end }}
{{- if or .Values.nats.existingSecret (not .Values.nats.url) }}
- name: PELTON_NATS_TOKEN
  valueFrom:
    secretKeyRef:
      {{- include "pelton.natsSecret" . | nindent 6 }}
{{- end }}
{{- if .Values.nats.credsSecret }}
- name: PELTON_NATS_CREDS
  value: /etc/pelton/creds/{{ .Values.nats.credsKey }}
{{- end }}
{{- if .Values.nats.tlsSecret }}
- name: PELTON_NATS_TLS_CA
  value: /etc/pelton/tls/ca.crt
{{- if .Values.nats.tlsClient }}
- name: PELTON_NATS_TLS_CERT
  value: /etc/pelton/tls/tls.crt
- name: PELTON_NATS_TLS_KEY
  value: /etc/pelton/tls/tls.key
{{- end }}
{{- end }}
{{- with .Values.redis.existingSecret }}
- name: PELTON_REDIS
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.redis.key }}
{{- end }}
{{- end }}

{{/* The files that this names, and where they are. Only the keys that are used are there. */}}
{{- define "pelton.mounts" -}}
{{- if .Values.nats.credsSecret }}
- name: nats-creds
  mountPath: /etc/pelton/creds
  readOnly: true
{{- end }}
{{- if .Values.nats.tlsSecret }}
- name: nats-tls
  mountPath: /etc/pelton/tls
  readOnly: true
{{- end }}
{{- end }}
{{- define "pelton.volumes" -}}
{{- if .Values.nats.credsSecret }}
- name: nats-creds
  secret:
    secretName: {{ .Values.nats.credsSecret }}
    defaultMode: 0440
    items: [{key: {{ .Values.nats.credsKey }}, path: {{ .Values.nats.credsKey }}}]
{{- end }}
{{- if .Values.nats.tlsSecret }}
- name: nats-tls
  secret:
    secretName: {{ .Values.nats.tlsSecret }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
      {{- if .Values.nats.tlsClient }}
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      {{- end }}
{{- end }}
{{- end }}

{{- define "pelton.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "pelton.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What of a pod its owner says: nodeSelector and so on. */}}
{{- define "pelton.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The pod of a server, embedded broker or not. */}}
{{- define "pelton.serverPod" -}}
metadata:
  labels:
    {{- include "pelton.labels" . | nindent 4 }}
    app.kubernetes.io/component: server
  {{- with .Values.server.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "pelton.fullname" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false # else PELTON_PORT and others come from the Service
  terminationGracePeriodSeconds: 60
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "pelton.podSecurity" . | nindent 4 }}
  containers:
    - name: pelton
      image: {{ include "pelton.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        {{- range .Values.server.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        - name: PELTON_ADDR
          value: ":7420"
        - name: PELTON_TOKEN
          valueFrom:
            secretKeyRef:
              {{- include "pelton.apiSecret" . | nindent 14 }}
        - name: PELTON_DRAIN_DELAY
          value: {{ .Values.server.drainDelay | quote }}
        {{- include "pelton.env" . | nindent 8 }}
        {{- if .Values.nats.url }}
        - name: PELTON_REPLICAS
          value: {{ .Values.nats.replicas | quote }}
        {{- else }}
        - name: PELTON_NATS_LISTEN
          value: ":4222"
        - name: PELTON_DATA
          value: /data
        - name: PELTON_SYNC
          value: {{ .Values.server.sync | quote }}
        {{- end }}
        {{- with .Values.server.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: 7420
        {{- if not .Values.nats.url }}
        - name: nats
          containerPort: 4222
        {{- end }}
      # Ready: a write reached every stream. Alive: the process answers. A restart does
      # not bring a broker back, so liveness must not ask for one.
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      securityContext:
        {{- include "pelton.security" . | nindent 8 }}
      {{- with .Values.server.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if not .Values.nats.url }}
      volumeMounts:
        - name: data
          mountPath: /data
      {{- else }}
      {{- with (include "pelton.mounts" . | trim) }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
      {{- end }}
  {{- with (include "pelton.volumes" . | trim) }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with (include "pelton.placement" .Values.server) }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .Values.nats.url }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "pelton.selector" . | nindent 10 }}
          app.kubernetes.io/component: server
  {{- end }}
{{- end }}
