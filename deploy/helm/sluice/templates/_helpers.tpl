{{- define "sluice.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "sluice.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sluice.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "sluice.configMap" -}}
{{- default (include "sluice.name" .) .Values.existingConfigMap -}}
{{- end -}}

{{/* Seconds that running streams may take after SIGTERM, the pause for load balancers included. */}}
{{- define "sluice.drain" -}}
{{- $server := .Values.config.server | default dict -}}
{{- add (ceil ($server.drain_delay | default 0)) (ceil ($server.drain | default 120)) -}}
{{- end -}}

{{- define "sluice.gracePeriod" -}}
{{- $needed := include "sluice.drain" . | int -}}
{{- if .Values.terminationGracePeriodSeconds -}}
{{- if le (int .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds must be more than the %d s of config.server.drain_delay and drain together, or streams are cut" $needed) -}}
{{- end -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- else -}}
{{- add $needed 25 -}}
{{- end -}}
{{- end -}}

{{/* Limits and records that every replica keeps alone are not limits and not records. */}}
{{- define "sluice.check" -}}
{{- if and (not .Values.existingConfigMap) (or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1)) -}}
{{- if not .Values.config.redis -}}
{{- fail "more than one replica needs config.redis: a limit that each replica enforces alone is not a limit" -}}
{{- end -}}
{{- if hasPrefix "sqlite" (dig "database" "url" "sqlite" .Values.config) -}}
{{- fail "more than one replica needs PostgreSQL in config.database.url: keys and usage are shared" -}}
{{- end -}}
{{- end -}}
{{- end -}}
